-- not-in-transaction
SET lock_timeout = '2s';
BEGIN;
CREATE INDEX CONCURRENTLY orders_customer_idx ON orders (customer_id);
COMMIT;
