//! Files of a checkpoint, for the image reader's target.

/// Their names.
pub const NAMES: [&str; 12] = [
    "inventory.img",
    "pstree.img",
    "files.img",
    "mm-1.img",
    "mm-2.img",
    "pagemap-1.img",
    "pagemap-2.img",
    "pagemap-shmem-7.img",
    "pages-1.img",
    "pages-2.img",
    "pages-3.img",
    "reg-files.img",
];
