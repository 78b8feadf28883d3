// Command build makes what a site without internet installs: the container image
// out of Debian's packages and the bundle around it, without a registry or a
// container engine. The same input gives the same bytes.
package main
