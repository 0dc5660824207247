-- constraint-validates
SET lock_timeout = '2s';
ALTER TABLE orders ADD COLUMN state_id int DEFAULT 1 REFERENCES states (id);
