-- disable-trigger
SET lock_timeout = '2s';
ALTER TABLE orders DISABLE TRIGGER ALL;
