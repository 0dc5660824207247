-- enum-value-in-transaction
SET lock_timeout = '2s';
BEGIN;
ALTER TYPE order_state ADD VALUE 'returned';
ALTER TABLE orders ALTER COLUMN state SET DEFAULT 'returned';
COMMIT;
