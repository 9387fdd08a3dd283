//! Redis with Sentinels, and Redis as a Cluster: set up on loopback, with a master that dies.
