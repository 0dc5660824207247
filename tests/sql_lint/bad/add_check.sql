-- constraint-validates
SET lock_timeout = '2s';
ALTER TABLE orders ADD CONSTRAINT quantity_positive CHECK (quantity > 0);
