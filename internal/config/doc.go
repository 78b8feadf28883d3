// Package config is the node's one configuration file: read strictly, checked
// completely, turned into typed values.
package config
