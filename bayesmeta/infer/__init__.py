"""Back-ends: p(φ | D) from the target of a hierarchy, one back-end a file, all returning `Draws`."""
