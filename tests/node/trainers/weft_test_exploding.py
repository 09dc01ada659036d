raise OSError("the data server is down")
