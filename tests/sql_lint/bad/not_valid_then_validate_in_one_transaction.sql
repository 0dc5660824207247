-- validate-with-add
SET lock_timeout = '2s';
BEGIN;
ALTER TABLE orders ADD CONSTRAINT q CHECK (quantity > 0) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT q;
COMMIT;
