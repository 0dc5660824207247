-- ignore-unused
SET lock_timeout = '2s';
-- pgmorph:ignore truncate: it is empty
ALTER TABLE orders ADD COLUMN note text;
