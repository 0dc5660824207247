-- lock-table
SET lock_timeout = '2s';
BEGIN;
LOCK TABLE orders IN SHARE MODE;
COMMIT;
