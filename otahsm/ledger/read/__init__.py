"""What is read beside the writer, on connections that can not write."""
