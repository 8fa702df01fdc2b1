"""What codecs are built from: bits, floats, blocks, codebooks, threads, compiled kernels. No codec is known here."""
