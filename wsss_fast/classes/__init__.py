"""Groups of classes: which classes of a network one value of a mask stands for."""
