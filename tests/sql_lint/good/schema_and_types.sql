CREATE SCHEMA IF NOT EXISTS billing;
CREATE TYPE billing.kind AS ENUM ('a', 'b');
CREATE DOMAIN billing.cents AS bigint CHECK (VALUE >= 0);
CREATE SEQUENCE billing.numbers;
CREATE TABLE billing.lines (id bigint PRIMARY KEY DEFAULT nextval('billing.numbers'), kind billing.kind);
ALTER DOMAIN billing.cents ADD CONSTRAINT small CHECK (VALUE < 1000000) NOT VALID;
