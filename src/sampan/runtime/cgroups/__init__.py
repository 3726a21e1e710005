"""Control groups, v1 and v2: what the engine and the OCI runtime both do with them.

Import-light: commands that live for milliseconds load it. kernel.org: admin-guide/cgroup-v1/*.rst,
admin-guide/cgroup-v2.rst.
"""
