"""Places and what lies in them: locations, local disks and object stores, tables."""
