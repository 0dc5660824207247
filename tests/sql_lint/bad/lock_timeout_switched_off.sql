-- missing-lock-timeout
SET lock_timeout = '2s';
SET lock_timeout = 0;
ALTER TABLE orders ALTER COLUMN note SET DEFAULT 'x';
