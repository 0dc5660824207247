UPDATE orders SET total = price * quantity WHERE id BETWEEN 1 AND 1000 AND total IS NULL;
