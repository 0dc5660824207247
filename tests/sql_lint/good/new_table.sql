CREATE TABLE invoices (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, number text UNIQUE, token uuid DEFAULT gen_random_uuid());
CREATE INDEX ON invoices (number);
ALTER TABLE invoices ALTER COLUMN number SET NOT NULL;
ALTER TABLE invoices ADD CONSTRAINT c CHECK (number <> '');
INSERT INTO invoices (number) VALUES ('1');
