-- locks-pile-up
SET lock_timeout = '2s';
BEGIN;
ALTER TABLE orders ADD COLUMN a int;
UPDATE customers SET b = 1 WHERE id < 1000;
COMMIT;
