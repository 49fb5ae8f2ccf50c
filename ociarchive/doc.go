// Package ociarchive writes container images as tar archives in the OCI image
// layout, which podman and skopeo read as oci-archive:FILE. Layers are trees,
// packed by the build root's tar and gzip. One tree makes one layer: members are
// sorted and nothing of the time of packing is kept.
package ociarchive
