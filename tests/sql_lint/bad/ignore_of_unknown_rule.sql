-- ignore-unknown-rule
SET lock_timeout = '2s';
-- pgmorph:ignore drop-colum: nobody reads it
ALTER TABLE orders ADD COLUMN note text;
