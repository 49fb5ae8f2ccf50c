// Package rpms makes an RPM repository for tests out of Debian packages, for
// RPM's own distributions cannot be asked for packages everywhere.
//
//	apt-get download --> .deb --convert--> tree + spec --rpmbuild--> .rpm --rpmsign-->
//	table of small packages -------------> tree + spec --rpmbuild--> .rpm --rpmsign-->
//	                                                        createrepo_c --> repodata
//
// The directory is laid out as a mirror of Fedora:
//
//	releases/42/Everything/x86_64/os/   most packages, the group "core"
//	updates/42/Everything/x86_64/       newer versions
//	RPM-GPG-KEY-test                    the key of the packages and of repomd.xml
//	RPM-GPG-KEY-other                   the key of the package "test-foreign"
//
// The converted packages make a small system that runs: a shell, the core
// utilities, accounts, systemd, rpm, dnf. They keep their Debian names and get those
// of Fedora where image builders ask for them. Packages called test-* are there
// for what a solver or an installer may meet. Scripts of Debian are not run, and
// a dependency on something that is not here is left out.
package rpms
