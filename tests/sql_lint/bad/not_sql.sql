-- syntax
ALTER TABEL orders ADD COLUMN note text;
