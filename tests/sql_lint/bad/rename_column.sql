-- rename-breaks-clients
SET lock_timeout = '2s';
ALTER TABLE orders RENAME COLUMN cust TO customer_id;
