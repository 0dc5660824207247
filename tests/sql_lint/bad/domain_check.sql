-- domain-validates
SET lock_timeout = '2s';
ALTER DOMAIN email ADD CONSTRAINT has_at CHECK (VALUE LIKE '%@%');
