\set ON_ERROR_STOP on
COPY states (id, name) FROM stdin;
1	new
2	sent
\.
CREATE INDEX CONCURRENTLY ON states (name);
