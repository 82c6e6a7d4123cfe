//! Linux disks: what is at a path, who uses it, which disk it is, and claiming it for writing.
