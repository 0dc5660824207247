CREATE TABLE scratch (id int);
ALTER TABLE scratch RENAME TO scratch2;
UPDATE scratch2 SET id = 1;
TRUNCATE scratch2;
DROP TABLE scratch2;
