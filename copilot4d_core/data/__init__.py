"""Sources of LiDAR scans, the rays they hold, sensor patterns and a LiDAR simulator."""
