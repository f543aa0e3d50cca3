"""Where the items of a data stage are computed: on this machine, or on the nodes of a cluster."""
