-- whole-table-write
UPDATE orders SET total = price * quantity;
