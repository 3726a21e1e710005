"""A container's processes: OCI spec, launch, monitor, exec, cgroups, logs."""
