-- locks-pile-up
SET lock_timeout = '2s';
BEGIN;
ALTER TABLE orders ADD COLUMN a int;
ALTER TABLE customers ADD COLUMN b int;
COMMIT;
