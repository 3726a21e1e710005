"""The OCI runtime command line: bundles in, containers out, without a daemon. Start at :mod:`.main`."""
