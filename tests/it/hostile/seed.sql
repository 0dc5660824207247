CREATE TABLE lines (id bigint PRIMARY KEY, quantity int NOT NULL DEFAULT 1, note text);
CREATE INDEX ON lines (quantity);
CREATE TABLE customers (id bigint PRIMARY KEY, region text);
CREATE TABLE event_notes (event_id bigint);
