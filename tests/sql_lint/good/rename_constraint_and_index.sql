SET lock_timeout = '2s';
ALTER INDEX orders_idx RENAME TO orders_customer_idx;
ALTER TABLE orders RENAME CONSTRAINT c TO quantity_positive;
