"""Entropy coding of symbols: Huffman and tabled ANS over many independent streams, and the rest of each word raw."""
