//! Point 21: resuming without holes and repeats.
