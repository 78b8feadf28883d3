module mooring.dev/mooring/build

go 1.26.0
