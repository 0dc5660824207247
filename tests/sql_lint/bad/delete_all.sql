-- whole-table-write
DELETE FROM orders;
