-- create-index-blocks
SET lock_timeout = '2s';
CREATE UNIQUE INDEX IF NOT EXISTS orders_number_idx ON shop.orders (number) WHERE deleted_at IS NULL;
