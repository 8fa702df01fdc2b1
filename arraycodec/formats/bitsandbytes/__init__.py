"""bitsandbytes: the states of its `Linear4bit` and `Linear8bitLt` and of its 4-bit parameters, read and written."""
