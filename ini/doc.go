// Package ini changes and writes INI files to the byte as the Python modules
// iniparse (File) and configparser (Config) do, which osbuild's stages use. It
// is not for reading settings: nothing here gives a value back.
package ini
