-- missing-lock-timeout
BEGIN;
SET LOCAL lock_timeout = '2s';
ALTER TABLE orders ADD COLUMN a int;
COMMIT;
ALTER TABLE orders ADD COLUMN b int;
