-- drop-table
SET lock_timeout = '2s';
DROP SCHEMA legacy CASCADE;
