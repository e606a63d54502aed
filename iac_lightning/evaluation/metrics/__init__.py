"""Numbers of one series on its native grid."""
