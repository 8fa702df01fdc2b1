"""Other people's formats of checkpoints, each a translation between stored tensors and values of our codecs."""
