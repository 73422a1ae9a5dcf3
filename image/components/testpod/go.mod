module basalt.local/testpod

go 1.26.0
