BEGIN;
SET LOCAL lock_timeout = '1s';
ALTER TABLE orders ADD COLUMN a int, ADD COLUMN b text;
COMMIT;
BEGIN;
SET LOCAL lock_timeout = '1s';
ALTER TABLE customers ADD COLUMN c int;
COMMIT;
