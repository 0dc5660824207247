//! pgmorph
