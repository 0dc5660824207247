CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE mood2 AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN dom_int AS int;
CREATE DOMAIN dom_int2 AS int;
CREATE DOMAIN dom_chk AS int CHECK (VALUE > 0);
CREATE DOMAIN dom_nn AS int NOT NULL;
CREATE DOMAIN dom_txt AS text;
CREATE DOMAIN dom_v10 AS varchar(10);
CREATE DOMAIN dom_v20 AS varchar(20);
CREATE FUNCTION f_imm(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1+1; END';
CREATE FUNCTION f_stab() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN 1; END';
CREATE FUNCTION trg() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE t (
  id int PRIMARY KEY, a int, b int NOT NULL, sm smallint, big bigint, n numeric, n102 numeric(10,2), f4 real,
  f8 float8, bl boolean, v10 varchar(10), v20 varchar(20), vn varchar, txt text, txc text COLLATE "C", c10 char(10),
  nm name, ct citext, ts timestamp, ts3 timestamp(3), tsz timestamptz, tsz3 timestamptz(3), tm3 time(3), d date,
  iv interval, iv3 interval(3), ivds interval day to second, ine inet, ci cidr, js json, jsb jsonb, bt bit(8),
  vb varbit(8), e mood, di dom_int, dc dom_chk, va varchar(10)[], u uuid, r int4range, p_id int, p_vc varchar(10)
);
CREATE TABLE p (id int PRIMARY KEY, code int UNIQUE, vc varchar(10) UNIQUE, txt text);
CREATE SEQUENCE sq;
